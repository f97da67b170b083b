/* Which paths, relative to the data directory, are data files whose blocks the map follows. */
#ifndef SEAWALL_DATA_PATH_H
#define SEAWALL_DATA_PATH_H

#include <stdbool.h>

bool data_path_is_tracked(const char *path, const char *slru_dirs);

#endif
