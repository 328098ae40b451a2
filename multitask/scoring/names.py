"""Names of evaluations, known without importing what scores."""

DEFAULT_NAME = "trained"
