"""Every figure that the README quotes, each one command; the demo; the sweep that chose its recipe."""
