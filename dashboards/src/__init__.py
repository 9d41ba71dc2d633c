"""Sources of the boards in dashboards/grafana."""
