"""The dashboard: Streamlit pages over the HTTP API, their only data source. It loads nothing from the internet."""
