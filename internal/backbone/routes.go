package backbone

import (
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

const (
	routeUser = "athena"
	// The names of this process's own clients: one for everything, and one of
	// the system account, for what concerns the servers.
	clientUser = "athena"
	systemUser = "athena-system"

	// A route whose other side is silent for two pings is given up. The usual
	// two minutes would keep a node that hangs on the list for as long.
	routePing      = 5 * time.Second
	routeMaxPings  = 2
	routeHandshake = 10 * time.Second // on a busy machine
	// routeReports is every how many attempts, of about one a second, the log
	// says that a node can't be reached.
	routeReports = 60
)

// withDefaults completes and checks the options.
func (c ClusterOptions) withDefaults() (*ClusterOptions, error) {
	if err := checkToken("cluster name", c.Name); err != nil {
		return nil, err
	}
	if _, _, err := hostPort(c.Listen); err != nil {
		return nil, fmt.Errorf("%w: the cluster's address: %w", ErrInvalid, err)
	}
	if c.Advertise != "" {
		if _, _, err := hostPort(c.Advertise); err != nil {
			return nil, fmt.Errorf("%w: the address to advertise: %w", ErrInvalid, err)
		}
	}
	for _, r := range c.Routes {
		if _, _, err := hostPort(r); err != nil {
			return nil, fmt.Errorf("%w: a route: %w", ErrInvalid, err)
		}
	}
	if c.ForgetAfter < 0 {
		return nil, fmt.Errorf("%w: nodes would be forgotten after %v", ErrInvalid, c.ForgetAfter)
	}
	if c.ForgetAfter == 0 {
		c.ForgetAfter = DefaultForgetAfter
	}
	if c.TLS == nil && c.Secret != "" {
		var err error
		if c.TLS, err = ClusterTLS(c.Secret); err != nil {
			return nil, err
		}
	}
	if c.TLS == nil && !loopback(c.Listen) {
		return nil, fmt.Errorf("%w: %s can be reached from other machines, and there is neither a secret nor a certificate: whoever reaches it would be a node",
			ErrInvalid, c.Listen)
	}
	return &c, nil
}

func hostPort(address string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("address %s: the port is not a number from 0 to 65535", address)
	}
	return host, int(n), nil
}

func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// join makes so the options of a server that is one of a cluster.
//
// Routing does not start unless the server listens for clients too. So it does,
// on a port of loopback that is told to nobody, and lets in whoever knows a
// password that is made anew at each start and never leaves the process.
func (e *embeddedServer) join(so *server.Options, o Options) error {
	c := o.Cluster
	host, port, err := hostPort(c.Listen)
	if err != nil {
		return err
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	password, err := routePassword(c.Secret)
	if err != nil {
		return err
	}
	e.clients = &clients{password: rand.Text(), server: func() *server.Server { return e.Server }}
	so.Host, so.Port = "127.0.0.1", server.RANDOM_PORT
	so.CustomClientAuthentication = e.clients
	so.ConnectErrorReports, so.ReconnectErrorReports = routeReports, routeReports
	so.Cluster = server.ClusterOpts{
		Name:         c.Name,
		Host:         host,
		Port:         port,
		Advertise:    c.Advertise,
		NoAdvertise:  true, // of the port for clients
		TLSConfig:    c.TLS,
		TLSTimeout:   routeHandshake.Seconds(),
		PingInterval: routePing,
		MaxPingsOut:  routeMaxPings,
		// Nodes that one has heard of through others are tried for a while.
		ConnectRetries: 120,
	}
	if password != "" {
		so.Cluster.Username, so.Cluster.Password = routeUser, password
	}
	for _, r := range c.Routes {
		u := &url.URL{Scheme: "nats-route", Host: r}
		if password != "" {
			u.User = url.UserPassword(routeUser, password)
		}
		e.routes = append(e.routes, u)
	}
	// A reload would sort them, while the server reads them.
	slices.SortFunc(e.routes, func(x, y *url.URL) int { return strings.Compare(x.String(), y.String()) })
	// A server that is alone keeps streams that one of a cluster would delete
	// as nobody's, and the other way round, so they don't share a directory.
	so.StoreDir = filepath.Join(o.DataDir, "cluster-"+c.Name)
	so.Routes = e.routes
	if !founded(so.StoreDir) {
		so.Routes = e.routes[:min(len(e.routes), founders(len(e.routes)))]
	}
	return nil
}

// founders is how many servers must meet to found a cluster, where routes are
// given to so many. A server takes the number of its routes for the number of
// servers, and as long as none has stored anything all of them must be there.
// So that a cluster whose nodes have three addresses to try comes up with two
// nodes, the server is first told of so many routes: more than half, so that
// no two groups found a cluster each, and of the rest by tellRoutes.
func founders(routes int) int { return max(2, routes/2+1) }

// founded reports whether the server with its store in dir has been one of a
// cluster before, and so knows how many count.
func founded(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "jetstream", "$SYS", "_js_", "_meta_", "peers.idx"))
	return err == nil
}

// tellRoutes tells the running server of all routes.
func (e *embeddedServer) tellRoutes(so *server.Options) error {
	if len(so.Routes) == len(e.routes) {
		return nil
	}
	all := so.Clone()
	all.Routes = e.routes
	if err := e.ReloadOptions(all); err != nil {
		return fmt.Errorf("tell the NATS server of its routes: %w", err)
	}
	return nil
}

// clients decides who may connect to the server's port for clients.
type clients struct {
	password string
	server   func() *server.Server
}

var _ server.Authentication = (*clients)(nil)

// Check implements server.Authentication. It is not called before Start.
func (c *clients) Check(who server.ClientAuthentication) bool {
	o := who.GetOpts()
	if subtle.ConstantTimeCompare([]byte(o.Password), []byte(c.password)) != 1 {
		return false
	}
	u := &server.User{Username: o.Username}
	switch o.Username {
	case clientUser:
	case systemUser:
		u.Account = c.server().SystemAccount()
	default:
		return false
	}
	who.RegisterUser(u)
	return true
}
