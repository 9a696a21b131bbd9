// The main flows, by the types that openapi-typescript makes of the document: `node flows.js ADDRESS`.
import createClient from "openapi-fetch";
import type { paths } from "./muster";

const client = createClient<paths>({ baseUrl: process.argv[2]!.replace(/\/$/, "") });

function taken<T>(answer: { data?: T; error?: { detail: string } }): T {
  if (answer.data === undefined) throw new Error(answer.error?.detail ?? "no answer");
  return answer.data;
}

async function main(): Promise<void> {
  const job = taken(await client.POST("/jobs", { body: { kind: "demo.slices", priority: 0 } }));
  const seen = taken(await client.GET("/jobs/{job_id}", { params: { path: { job_id: job.job_id } } }));
  const gone = taken(await client.DELETE("/jobs/{job_id}", { params: { path: { job_id: job.job_id } } }));
  const task = taken(await client.POST("/tasks/", { body: { operation: "1.5+2" } }));
  const batch = taken(await client.POST("/tasks/batch-request/", { body: [{ a: 1, b: 2 }, { operation: "3+4" }] }));
  const tasks = taken(await client.GET("/tasks/", { params: { query: { status: ["PENDING"], limit: 3 } } }));
  console.log(JSON.stringify([seen.status, gone.status, task.status, batch.accepted, tasks.results.length]));
}

main().catch((error: unknown) => {
  console.error(error);
  process.exit(1);
});
