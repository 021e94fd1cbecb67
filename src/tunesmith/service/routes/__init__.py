"""The routes, one file for each kind of thing that is asked for. Each file has `add_routes(app)`."""
