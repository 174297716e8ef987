"""The website under load: ours, that of an earlier commit, and one on stock nameko."""
