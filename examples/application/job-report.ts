// An edge function that answers with the jobs that bring in most, as it is before the migration of `jobs_code.yaml`.
import { createClient } from "npm:@supabase/supabase-js@2";
import type { Database } from "./database.ts";

const db = createClient<Database>(Deno.env.get("SUPABASE_URL")!, Deno.env.get("SUPABASE_ANON_KEY")!);

Deno.serve(async () => {
  const { data, error } = await db.from("jobs").select("id, total, device_info").order("total").limit(10);
  if (error) return Response.json({ error: error.message }, { status: 500 });
  return Response.json(data.map((job) => ({ id: job.id, total: job.total, device: job.device_info })));
});
