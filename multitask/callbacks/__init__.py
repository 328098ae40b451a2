"""What the plugin does while Axolotl trains: callbacks of the trainer."""
