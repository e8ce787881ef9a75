"""The pages, one per module; `render` draws it."""
