"""The staged offline jobs: one module per subcommand, files in and files out."""
