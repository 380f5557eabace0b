"""Chat completions: schema, request -> Prompt, events -> chunks or one completion, the route."""
