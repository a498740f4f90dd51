"""The load test: Locust users that check every outcome, and wrk for the raw rate."""
