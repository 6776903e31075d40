"""From results to JSON, Markdown and text."""
