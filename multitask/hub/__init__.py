"""The Hugging Face Hub: a run's model, with a card, in a repository of the user's."""
