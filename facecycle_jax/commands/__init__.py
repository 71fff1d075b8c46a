"""The subcommands of `facecycle`, one module for each family."""
