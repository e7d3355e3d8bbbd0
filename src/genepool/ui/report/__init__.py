"""The report of a pool and the page of a comparison; `templates/` holds the HTML."""
