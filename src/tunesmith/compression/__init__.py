"""Make a tuned model smaller and faster: prune, distil, quantise; each step measured."""
