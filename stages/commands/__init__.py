"""Commands that train nothing: init, run, status, clean, show-views."""
