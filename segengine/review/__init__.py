"""The review page: masks put right by hand, on this machine only."""
