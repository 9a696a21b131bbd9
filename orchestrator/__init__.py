"""The engine: jobs, their queue, the workers, and the API and admin for them. Nothing about what a job is for."""
