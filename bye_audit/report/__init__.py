"""The report: everything that was found, as one HTML file that needs no network and no script."""
