"""What passes work on, what a pass is, and pipelines of them."""
