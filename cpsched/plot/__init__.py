"""Pictures of schedules: a family draws a `Figure`, the writers here turn it into files."""
