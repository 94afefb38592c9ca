"""What any program needs: errors, files, downloads, signals, console, processes, machine."""
