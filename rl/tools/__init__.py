"""Tools that a model may call between its turns: built-in ones in boxes, users' functions, and MCP servers."""
