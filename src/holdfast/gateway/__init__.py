"""The public door: who asks, which role answers, and how the whole is."""
