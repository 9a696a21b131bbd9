"""The API of tasks and schedules, and its part of the OpenAPI document. No rule about tasks or schedules."""
