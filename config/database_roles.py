"""The roles of the compose file's database, which its superuser makes before each migration.

`muster_owner` owns the tables and migrates them. `muster_app`, whom all other processes are, reads and writes rows; it
can neither change a table nor read files or run programs. Each password is that of its URL, so a changed one is set.
"""

import sys
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psycopg2
from psycopg2.sql import SQL, Identifier, Literal

OWNER, APP = "muster_owner", "muster_app"

MAKE_ROLE = """
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {name}) THEN CREATE ROLE {role}; END IF;
END $$;
ALTER ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD {password};
"""

# Databases made before there were roles have tables of the superuser's.
GIVE_TABLES = """
DO $$ DECLARE thing record; BEGIN
    FOR thing IN SELECT oid::regclass AS name FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v') AND relowner <> {name}::regrole
    LOOP EXECUTE format('ALTER TABLE %s OWNER TO {role}', thing.name); END LOOP;
END $$;
"""

GRANT = """
ALTER SCHEMA public OWNER TO {owner};
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO {app};
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {app};
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO {app};
ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {app};
ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO {app};
"""


def main() -> None:
    superuser_url, *urls = (Path(path).read_text().strip() for path in sys.argv[1:])
    make_roles(superuser_url, *urls)


def make_roles(superuser_url: str, owner_url: str, app_url: str) -> None:
    """Idempotent. A URL that names another role is somebody's own database, which is left alone."""
    parts = {urlsplit(url).username: urlsplit(url) for url in (owner_url, app_url)}
    if parts.keys() != {OWNER, APP}:
        return
    names = {"owner": Identifier(OWNER), "app": Identifier(APP)}
    with closing(psycopg2.connect(superuser_url)) as connection, connection, connection.cursor() as cursor:
        for name, url in parts.items():
            values = {
                "name": Literal(name),
                "role": Identifier(name),
                "password": Literal(unquote(url.password or "")),
            }
            cursor.execute(SQL(MAKE_ROLE).format(**values))
        cursor.execute(SQL(GIVE_TABLES).format(name=Literal(OWNER), role=Identifier(OWNER)))
        cursor.execute(SQL(GRANT).format(**names))


if __name__ == "__main__":
    main()
