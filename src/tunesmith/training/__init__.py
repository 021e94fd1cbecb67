"""Turn a Plan into a Bundle: recipe, plan, loop, checkpoints, measure."""
