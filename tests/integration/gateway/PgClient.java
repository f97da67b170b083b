import java.io.StringReader;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.SQLTimeoutException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.util.Properties;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;
import org.postgresql.copy.CopyManager;

/**
 * What JDBC does with a server, told as lines {@code ok NAME}; it stops at the first failure.
 *
 * <p>Where the server is comes from the variables of libpq. The argument names a table that does
 * not exist yet and is dropped at the end. It is run as source, so that nothing has to be compiled.
 */
public final class PgClient {
    private static String table;

    public static void main(String[] arguments) throws Exception {
        table = arguments[0];
        try (Connection connection = open(5)) {
            queries(connection);
            serverPrepared();
            batches(connection);
            fetchSizes(connection);
            errors(connection);
            transactions(connection);
            copies(connection);
            notifications(connection);
            timeouts(connection);
            metadata(connection);
            simpleMode();
            try (Statement statement = connection.createStatement()) {
                statement.execute("drop table " + table);
            }
        }
    }

    private static Connection open(int prepareThreshold) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("prepareThreshold", Integer.toString(prepareThreshold));
        return open(properties);
    }

    private static Connection open(Properties properties) throws SQLException {
        properties.setProperty("user", System.getenv("PGUSER"));
        properties.setProperty("password", System.getenv("PGPASSWORD"));
        String address = System.getenv("PGHOST") + ":" + System.getenv("PGPORT");
        String url = "jdbc:postgresql://" + address + "/" + System.getenv("PGDATABASE");
        return DriverManager.getConnection(url, properties);
    }

    private static void queries(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute("create table " + table + " (a int primary key, b text)");
            boolean isResult = statement.execute("select 1; select 2");
            claim(isResult && statement.getMoreResults(), "two results of one text");
        }
        try (PreparedStatement select = connection.prepareStatement("select ?::int, ?::text")) {
            for (int number = 0; number < 20; number++) { // prepared by the server from the fifth on
                select.setInt(1, number);
                select.setString(2, "x".repeat(number));
                ResultSet found = select.executeQuery();
                claim(found.next() && found.getInt(1) == number, "the number");
                claim(found.getString(2).length() == number, "the text");
            }
        }
        ok("queries");
    }

    private static void serverPrepared() throws SQLException {
        try (Connection connection = open(1)) {
            for (int kind = 0; kind < 300; kind++) { // more than the driver keeps: it closes old ones
                try (PreparedStatement one = connection.prepareStatement("select ? + " + kind)) {
                    one.setInt(1, kind);
                    ResultSet found = one.executeQuery();
                    claim(found.next() && found.getInt(1) == 2 * kind, "the sum");
                }
            }
        }
        ok("serverPrepared");
    }

    private static void batches(Connection connection) throws SQLException {
        String insert = "insert into " + table + " values (?, ?)";
        try (PreparedStatement statement = connection.prepareStatement(insert)) {
            for (int number = 1; number <= 1000; number++) {
                statement.setInt(1, number);
                statement.setString(2, "row " + number);
                statement.addBatch();
            }
            claim(statement.executeBatch().length == 1000, "the batch");
            statement.setInt(1, 1);
            statement.setString(2, "again");
            statement.addBatch();
            try {
                statement.executeBatch();
                throw new AssertionError("a batch with a duplicate passed");
            } catch (BatchUpdateException error) {
                claim("23505".equals(error.getNextException().getSQLState()), "the duplicate");
            }
        }
        ok("batches");
    }

    private static void fetchSizes(Connection connection) throws SQLException {
        connection.setAutoCommit(false);
        try (Statement statement = connection.createStatement()) {
            statement.setFetchSize(70);
            int rows = 0;
            try (ResultSet found = statement.executeQuery("select * from " + table)) {
                while (found.next()) {
                    rows++;
                }
            }
            claim(rows == 1000, "all rows in pieces");
        }
        connection.commit();
        connection.setAutoCommit(true);
        ok("fetchSizes");
    }

    private static void errors(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.executeQuery("select 1/0");
            throw new AssertionError("one was divided by zero");
        } catch (SQLException error) {
            claim("22012".equals(error.getSQLState()), "division by zero");
        }
        ok("errors");
    }

    private static void transactions(Connection connection) throws SQLException {
        connection.setAutoCommit(false);
        connection.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
        try (Statement statement = connection.createStatement()) {
            statement.executeUpdate("delete from " + table + " where a = 1");
            Savepoint savepoint = connection.setSavepoint();
            statement.executeUpdate("delete from " + table);
            connection.rollback(savepoint);
            connection.commit();
            ResultSet found = statement.executeQuery("select count(*) from " + table);
            claim(found.next() && found.getInt(1) == 999, "one row is gone");
        }
        connection.rollback();
        connection.setTransactionIsolation(Connection.TRANSACTION_READ_COMMITTED);
        connection.setAutoCommit(true);
        ok("transactions");
    }

    private static void copies(Connection connection) throws Exception {
        CopyManager manager = connection.unwrap(PGConnection.class).getCopyAPI();
        StringReader rows = new StringReader("2000\tcopied\n2001\tcopied\n");
        claim(manager.copyIn("copy " + table + " from stdin", rows) == 2, "copied in");
        java.io.StringWriter taken = new java.io.StringWriter();
        claim(manager.copyOut("copy " + table + " to stdout", taken) == 1001, "copied out");
        ok("copies");
    }

    private static void notifications(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement();
                Connection other = open(5);
                Statement teller = other.createStatement()) {
            statement.execute("listen " + table);
            teller.execute("notify " + table + ", 'told'");
            PGNotification[] heard = connection.unwrap(PGConnection.class).getNotifications(30_000);
            claim(heard.length == 1 && "told".equals(heard[0].getParameter()), "what was told");
        }
        ok("notifications");
    }

    private static void timeouts(Connection connection) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.setQueryTimeout(1); // by a cancel request
            statement.execute("select pg_sleep(600)");
            throw new AssertionError("nothing was canceled");
        } catch (SQLTimeoutException error) {
            throw new AssertionError("another class than the driver documents", error);
        } catch (SQLException error) {
            claim("57014".equals(error.getSQLState()), "canceled");
        }
        ok("timeouts");
    }

    private static void metadata(Connection connection) throws SQLException {
        DatabaseMetaData metadata = connection.getMetaData();
        ResultSet columns = metadata.getColumns(null, null, table, null);
        claim(columns.next() && "a".equals(columns.getString("COLUMN_NAME")), "the first column");
        ResultSet keys = metadata.getPrimaryKeys(null, null, table);
        claim(keys.next() && "a".equals(keys.getString("COLUMN_NAME")), "the key");
        claim(connection.isValid(10), "the connection");
        ok("metadata");
    }

    private static void simpleMode() throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("preferQueryMode", "simple");
        try (Connection connection = open(properties);
                PreparedStatement select = connection.prepareStatement("select ?::int")) {
            select.setInt(1, 3);
            ResultSet found = select.executeQuery();
            claim(found.next() && found.getInt(1) == 3, "the number");
        }
        ok("simpleMode");
    }

    private static void claim(boolean isTrue, String what) {
        if (!isTrue) {
            throw new AssertionError(what);
        }
    }

    private static void ok(String name) {
        System.out.println("ok " + name);
    }
}
