"""The pages, one a module: `render` draws it."""
