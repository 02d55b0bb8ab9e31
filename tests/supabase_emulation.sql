-- A database that looks like a Supabase project, without Docker. Run by the bootstrap superuser `supabase_admin`
-- (initdb -U supabase_admin) on a fresh database. Roles, rights and timeouts as the platform documents them.
--
-- Roles belong to the cluster and everything else to the database, so this may be run again for the next database:
-- a role that exists is kept, and what is granted or set once more stays as it is.
do $$
declare
  wanted text;
begin
  foreach wanted in array array[
    'postgres login createdb createrole replication bypassrls',      -- NOT superuser, as on the platform
    'anon nologin noinherit',
    'authenticated nologin noinherit',
    'service_role nologin noinherit bypassrls',
    'authenticator login noinherit',
    'supabase_auth_admin login noinherit createrole',
    'supabase_storage_admin login noinherit createrole',
    'supabase_replication_admin login replication',
    'supabase_read_only_user login bypassrls'
  ] loop
    if to_regrole(split_part(wanted, ' ', 1)) is null then
      execute 'create role ' || wanted;
    end if;
  end loop;
end $$;
grant pg_read_all_data to supabase_read_only_user;
grant anon, authenticated, service_role to authenticator;
grant anon, authenticated, service_role to postgres with admin option;
grant pg_monitor, pg_read_all_data, pg_signal_backend to postgres;
alter role anon          set statement_timeout = '3s';
alter role authenticated set statement_timeout = '8s';
alter role authenticator set statement_timeout = '8s';
alter role authenticator set lock_timeout = '8s';
alter role supabase_auth_admin set idle_in_transaction_session_timeout = 60000;
-- platform global default (docs: "global default timeout of 2 minutes")
do $$ begin execute format('alter database %I set statement_timeout = %L', current_database(), '2min');
            execute format('grant all on database %I to postgres', current_database());
            execute format('alter database %I owner to postgres', current_database()); end $$;
-- stand-in for supautils.privileged_role_allowed_configs (PG15+ parameter privileges)
do $$ declare g text; begin
  if current_setting('server_version_num')::int >= 150000 then
    foreach g in array array['session_replication_role','log_min_messages','log_lock_waits','track_io_timing',
                             'log_min_duration_statement','log_statement','log_temp_files','deadlock_timeout'] loop
      execute format('grant set on parameter %I to postgres', g);
    end loop;
  end if; end $$;
alter schema public owner to postgres;
grant usage on schema public to postgres, anon, authenticated, service_role;
grant create on schema public to postgres;
alter default privileges for role postgres in schema public grant all on tables    to anon, authenticated, service_role;
alter default privileges for role postgres in schema public grant all on sequences to anon, authenticated, service_role;
alter default privileges for role postgres in schema public grant all on functions to anon, authenticated, service_role;
create schema auth authorization supabase_auth_admin;
grant usage on schema auth to postgres, anon, authenticated, service_role;
create schema extensions; grant usage on schema extensions to postgres, anon, authenticated, service_role;
create table auth.users(id uuid primary key default gen_random_uuid(), email text unique, phone text,
  raw_user_meta_data jsonb default '{}', raw_app_meta_data jsonb default '{}', created_at timestamptz default now());
alter table auth.users owner to supabase_auth_admin;
grant all on auth.users to postgres with grant option;
-- A claim comes from its own setting (older gateways) or from the JSON of all claims.
create function auth.claim(name text) returns text language sql stable as $$
  select coalesce(nullif(current_setting('request.jwt.claim.' || name, true), ''),
                  nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> name) $$;
create function auth.uid()   returns uuid  language sql stable as $$ select auth.claim('sub')::uuid $$;
create function auth.role()  returns text  language sql stable as $$ select auth.claim('role') $$;
create function auth.email() returns text  language sql stable as $$ select auth.claim('email') $$;
create function auth.jwt()   returns jsonb language sql stable as $$
  select nullif(current_setting('request.jwt.claims', true), '')::jsonb $$;
alter function auth.claim(text) owner to supabase_auth_admin;
alter function auth.uid() owner to supabase_auth_admin; alter function auth.role() owner to supabase_auth_admin;
alter function auth.email() owner to supabase_auth_admin; alter function auth.jwt() owner to supabase_auth_admin;
create publication supabase_realtime;                 -- empty by default; ADD TABLE is what floods Realtime
alter publication supabase_realtime owner to postgres;
-- pg_net stub: counts what a backfill would have sent (unlogged queue, like the real one)
create schema net; grant usage on schema net to postgres, anon, authenticated, service_role;
create unlogged table net.http_request_queue(id bigserial, method text not null, url text not null, headers jsonb, body bytea, timeout_milliseconds int not null);
create function net.http_post(url text, body jsonb default '{}', params jsonb default '{}', headers jsonb default '{"Content-Type":"application/json"}', timeout_milliseconds int default 2000)
 returns bigint language sql volatile security definer as $$
 insert into net.http_request_queue(method,url,headers,body,timeout_milliseconds)
 values ('POST', url, headers, convert_to(body::text,'utf8'), timeout_milliseconds) returning id $$;
grant all on all tables in schema net to postgres;
-- database-webhook trigger function look-alike
create schema supabase_functions; grant usage on schema supabase_functions to postgres, anon, authenticated, service_role;
create function supabase_functions.http_request() returns trigger language plpgsql security definer as $$
begin perform net.http_post(TG_ARGV[0], jsonb_build_object('old_record', to_jsonb(old), 'record', to_jsonb(new), 'type', TG_OP, 'table', TG_TABLE_NAME, 'schema', TG_TABLE_SCHEMA)); return new; end $$;
-- CLI migration history (created by the CLI on first push)
create schema supabase_migrations authorization postgres;
create table supabase_migrations.schema_migrations(version text primary key, statements text[], name text);
alter table supabase_migrations.schema_migrations owner to postgres;
create table supabase_migrations.seed_files(path text primary key, hash text not null);
alter table supabase_migrations.seed_files owner to postgres;
