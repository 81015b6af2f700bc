"""The studio in the browser: a form, a stage, a queue and a history over the same `Service` as the API."""
