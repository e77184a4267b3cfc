"""A comparison for people: pages, pictures, and lines on the terminal."""
