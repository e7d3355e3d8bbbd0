"""When to stop asking a child: lossless, or risk-limited; `evaluation_plan` is what both make."""
