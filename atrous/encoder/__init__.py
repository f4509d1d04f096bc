"""The encoder of Fig. 2: an atrous backbone, then atrous spatial pyramid pooling."""
