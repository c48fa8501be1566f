"""The dashboard: what the market does and how the machine is, on Streamlit."""
