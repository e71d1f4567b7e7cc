"""What an exported file carries of how good and how fast it was: measured, written into the file, and compared again."""
