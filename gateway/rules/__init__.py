"""Rules: pure decisions about events, between judging them and storing them. State and event in, event and more events out."""
