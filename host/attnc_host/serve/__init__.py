"""An accelerator as a service: HTTP in front of one board.

Needs fastapi, uvicorn and prometheus-client beside numpy (the extra `serve`), and nothing of the compiler. `python -m attnc_host serve`
starts it; `create_app` is for those who run it inside a server of their own.
"""
