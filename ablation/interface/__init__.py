"""What a notebook uses: running rows, reading what they left, and classifying texts."""
