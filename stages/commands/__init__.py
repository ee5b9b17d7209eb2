"""Commands around the stages: init, run, status, clean, show-views."""
