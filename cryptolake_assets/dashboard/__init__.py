"""The dashboard: Streamlit pages over the HTTP API. It reads nothing else, and nothing from outside the machine."""
