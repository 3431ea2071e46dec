"""The boards that the driver runs on: each makes a `Device` of what a system offers."""
