"""One module a layer: how its boxes are started, and what it does not protect against."""
