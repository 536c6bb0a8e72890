"""The aiohttp server: authentication and the three views (REST, WebSocket, SSE) of one log."""
