"""The load test: Locust users that check every outcome."""
