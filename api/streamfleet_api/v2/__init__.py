"""The fleet's own routes, a noun a module, each declared once with all that its documentation says."""
