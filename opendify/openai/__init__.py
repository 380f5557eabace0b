"""OpenAI's side of the waist: one file per surface."""
