"""Which schedule: 1cycle beside what people use today, each with its own tuned peak."""
