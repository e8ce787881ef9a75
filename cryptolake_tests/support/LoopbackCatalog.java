import java.net.InetSocketAddress;
import java.util.HashMap;
import java.util.Map;

import jakarta.servlet.DispatcherType;
import jakarta.servlet.Filter;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.util.EnumSet;
import org.apache.hadoop.conf.Configuration;
import org.apache.iceberg.CatalogUtil;
import org.apache.iceberg.rest.RESTCatalogAdapter;
import org.apache.iceberg.rest.RESTCatalogServlet;
import org.eclipse.jetty.servlet.FilterHolder;
import org.eclipse.jetty.servlet.ServletContextHandler;
import org.eclipse.jetty.servlet.ServletHolder;
import org.eclipse.jetty.server.Server;

/**
 * Serves Iceberg's REST catalog, which the Iceberg project publishes for tests, on the loopback address and requires a
 * bearer token: its own main program listens on every address without authentication.
 *
 * <p>Arguments: port, token, then name=value properties of the backing catalog.
 */
public final class LoopbackCatalog {
  public static void main(String[] arguments) throws Exception {
    String authorization = "Bearer " + arguments[1];
    Map<String, String> properties = new HashMap<>();
    for (int number = 2; number < arguments.length; number++) {
      String[] pair = arguments[number].split("=", 2);
      properties.put(pair[0], pair[1]);
    }
    Filter requireToken =
        (request, response, chain) -> {
          if (authorization.equals(((HttpServletRequest) request).getHeader("Authorization"))) {
            chain.doFilter(request, response);
          } else {
            ((HttpServletResponse) response).sendError(HttpServletResponse.SC_UNAUTHORIZED);
          }
        };
    var catalog = CatalogUtil.buildIcebergCatalog("backend", properties, new Configuration());
    var context = new ServletContextHandler();
    context.addServlet(new ServletHolder(new RESTCatalogServlet(new RESTCatalogAdapter(catalog))), "/*");
    context.addFilter(new FilterHolder(requireToken), "/*", EnumSet.of(DispatcherType.REQUEST));
    var server = new Server(new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[0])));
    server.setHandler(context);
    server.start();
    server.join();
  }
}
