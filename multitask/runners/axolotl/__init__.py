"""What is Axolotl's: its file, its schema, and what its validator does not see."""
