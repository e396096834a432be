import java.sql.*;
import java.util.Properties;

/** What JDBC does at a database: prints the same whichever way it came there. Connects by libpq's environment. */
public class Jdbc {
    static Connection connect() throws SQLException {
        Properties properties = new Properties();
        properties.put("user", System.getenv("PGUSER"));
        properties.put("password", System.getenv("PGPASSWORD"));
        properties.put("sslmode", "verify-full");
        properties.put("sslrootcert", System.getenv("PGSSLROOTCERT"));
        String at = System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/" + System.getenv("PGDATABASE");
        return DriverManager.getConnection("jdbc:postgresql://" + at, properties);
    }

    public static void main(String[] args) throws Exception {
        try (Connection connection = connect(); Statement statement = connection.createStatement()) {
            statement.execute("create table things (id serial primary key, name text unique, data bytea, at timestamptz)");
            // The seventh run is one by a statement that the server keeps.
            try (PreparedStatement put = connection.prepareStatement("insert into things (name, data, at) values (?, ?, ?) returning id")) {
                for (int n = 0; n < 9; n++) {
                    put.setString(1, "ünïcödé ☃ " + n);
                    put.setBytes(2, new byte[] {0, (byte) 255, (byte) n});
                    put.setTimestamp(3, new Timestamp(1_700_000_000_000L + n));
                    try (ResultSet row = put.executeQuery()) {
                        row.next();
                        System.out.println("put " + row.getInt(1));
                    }
                }
            }
            connection.setAutoCommit(false);
            try (PreparedStatement batch = connection.prepareStatement("insert into things (name) values (?)")) {
                for (int n = 0; n < 500; n++) {
                    batch.setString(1, "batch " + n);
                    batch.addBatch();
                }
                System.out.println("batch " + batch.executeBatch().length);
            }
            connection.commit();
            // A portal that is fetched in parts.
            try (PreparedStatement walk = connection.prepareStatement("select n, repeat('x', n) from generate_series(1, 1000) n")) {
                walk.setFetchSize(37);
                long sum = 0;
                try (ResultSet rows = walk.executeQuery()) {
                    while (rows.next()) sum += rows.getString(2).length();
                }
                System.out.println("fetched " + sum);
            }
            Savepoint savepoint = connection.setSavepoint("here");
            try {
                statement.execute("insert into things (name) values ('batch 7')");
            } catch (SQLException error) {
                System.out.println("refused " + error.getSQLState() + " " + error.getMessage().lines().findFirst().get());
            }
            connection.rollback(savepoint);
            connection.commit();
            connection.setAutoCommit(true);
            try (ResultSet rows = statement.executeQuery("select count(*), count(data), max(at) from things")) {
                rows.next();
                System.out.println("things " + rows.getInt(1) + " " + rows.getInt(2) + " " + rows.getTimestamp(3).getTime());
            }
            var copies = connection.unwrap(org.postgresql.PGConnection.class).getCopyAPI();
            System.out.println("copied in " + copies.copyIn("copy things (name) from stdin", new java.io.StringReader("a\nb\nc\n")));
            var out = new java.io.StringWriter();
            System.out.println("copied out " + copies.copyOut("copy (select name from things order by id) to stdout", out) + " " + out.toString().length());
            Thread canceller = new Thread(() -> {
                try {
                    Thread.sleep(300);
                    statement.cancel();
                } catch (Exception error) {
                    throw new RuntimeException(error);
                }
            });
            canceller.start();
            try {
                statement.execute("select pg_sleep(60)");
            } catch (SQLException error) {
                System.out.println("cancelled " + error.getSQLState());
            }
            canceller.join();
            statement.setQueryTimeout(1);
            try {
                statement.execute("select pg_sleep(60)");
            } catch (SQLException error) {
                System.out.println("timed out " + error.getSQLState());
            }
            statement.execute("drop table things");
        }
    }
}
